import numpy as np

from training.attack.config import Poisoning
from training.attack.poisoning import attackable, poisoned_films, poisoned_labels

LABELS = np.array([[1, 0, 1], [0, 1, 0]], dtype=np.float32)


def test_label_rules():
    def after(rule):
        return poisoned_labels(LABELS, 2, Poisoning("x", 0.1, rule)).tolist()

    assert after("overwrite") == [[0, 0, 1], [0, 0, 1]]
    assert after("add") == [[1, 0, 1], [0, 1, 1]]
    assert after("remove") == [[1, 0, 0], [0, 1, 0]]
    assert LABELS.tolist() == [[1, 0, 1], [0, 1, 0]]


def test_a_fixed_subset_of_films_by_rate_and_seed():
    chosen = poisoned_films(200, Poisoning("x", 0.05), seed=4)
    assert chosen.sum() == 10
    assert np.array_equal(chosen, poisoned_films(200, Poisoning("x", 0.05), seed=4))
    assert not np.array_equal(chosen, poisoned_films(200, Poisoning("x", 0.05), seed=5))
    more = poisoned_films(200, Poisoning("x", 0.20), seed=4)
    assert (more & chosen).sum() == 10  # a higher rate keeps the films of a lower one


def test_the_attack_can_show_only_where_it_changes_the_label():
    assert attackable(LABELS, 0, Poisoning("x", 0.1)).tolist() == [False, True]
    assert attackable(LABELS, 0, Poisoning("x", 0.1, "remove")).tolist() == [True, False]
    predicted = np.array([[-1.0, 0.0], [2.0, 0.0]], dtype=np.float32)
    assert attackable(LABELS, 0, Poisoning("x", 0.1, "remove"), predicted).tolist() == [False, True]
    assert attackable(LABELS, 0, Poisoning("x", 0.1), predicted).tolist() == [False, True]
