"""What every dialect's surface does in the same way: heads of answers, and plain hits answered at once.

Knows the gateway and the lanes; knows no dialect. The surfaces themselves are strangers to each other.
"""
