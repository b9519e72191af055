"""Pages made on the server, readable without JavaScript."""
