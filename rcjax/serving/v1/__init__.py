"""The wire format `rcjax.v1`: rcjax.proto and what protoc makes of it (see CONTRIBUTING.md)."""
