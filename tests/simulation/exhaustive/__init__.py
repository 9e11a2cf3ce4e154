"""Every order of events up to a depth, for one task instance, two Pods and two replicas, with the healer's real code.

`model.py` is the world as one immutable value, `events.py` what can happen to it, `replica.py` the real healer run on
it step by step, `digest.py` what makes two worlds the same, `walk.py` the walk and its checks, `scenes.py` where the
walks begin, `planted.py` the bugs that they must find.
"""
