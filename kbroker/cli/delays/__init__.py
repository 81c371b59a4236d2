"""`kbroker delay`: reads.py asks leaders what is pending; delay.py tells people, cancels, delivers now."""
