"""Views: topics that show a part of another one, and hold nothing themselves.

filtering   which records of a batch a view shows; pure
reading     how a view is read: what need not be looked at, how much is, what goes back where there is nothing
"""
