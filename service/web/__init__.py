"""HTTP: the API, the pages, STOW-RS, over one set of dependencies."""
