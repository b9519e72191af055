from service.offline.models import preferred


def test_what_reads_a_film_that_names_no_classifier():
    assert preferred(["phantom-clean", "nih-badnet3", "nih-clean"]) == "nih-clean"
    assert preferred(["phantom-clean", "nih-badnet3", "nih-clean"], "phantom-clean") == "phantom-clean"
    assert preferred(["phantom-clean", "phantom-badnet3"], "gone") == "phantom-badnet3"
    assert preferred([]) is None
