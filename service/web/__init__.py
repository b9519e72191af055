"""HTTP over one set of dependencies: the JSON API, the pages and STOW-RS."""
