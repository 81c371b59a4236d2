"""Views: topics that show a part of another one, and hold nothing themselves.

views       the owner: of what this broker holds, what each view shows
view        one partition of a view
ages        how old records are, for views that are late; pure
filtering   which records of a batch a view shows; pure
results     what was found, kept a while for who asks again, and for others
reading     how a view is read: what need not be looked at, how much is, what goes back where there is nothing
"""
