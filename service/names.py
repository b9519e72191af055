"""What names of classifiers, policies, rules, sources, accounts and keys are made of."""

NAME = "[A-Za-z0-9._-]{1,64}"
NAME_PATTERN = f"^{NAME}$"
