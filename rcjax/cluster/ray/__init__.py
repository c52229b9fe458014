"""More than one host, on Ray: an actor for each host's slices, and one that keeps the library (docs/cluster.md).

A router in front is the one of a single process. Its workers are `RemoteSlice`s, which ask the hosts.
"""
