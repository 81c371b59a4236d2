"""Makes `test` a package of its own; without this file the standard library's `test` would be found."""
