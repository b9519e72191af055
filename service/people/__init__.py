"""Who may come in, as what and how often: accounts, roles, sessions, single sign-on, API keys, rates."""
