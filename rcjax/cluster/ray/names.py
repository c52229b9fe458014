"""What the actors of a cluster are called, in a namespace of their own."""

NAMESPACE = "rcjax"
KEEPER = "rcjax-keeper"
HOST_PREFIX = "rcjax-host-"
