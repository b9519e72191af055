"""Who may come in: accounts, sessions, single sign-on, keys."""
