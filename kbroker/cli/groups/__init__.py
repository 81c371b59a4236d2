"""`group ...`: what groups there are, where they are, moving and deleting them."""
