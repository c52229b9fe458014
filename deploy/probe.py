#!/usr/bin/env python
"""Asks a server's grpc.health.v1 whether it serves: ends with 0 if it does, else with 1 and a line that says why."""

import argparse
import sys
from pathlib import Path

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc


def main() -> str | None:
    """What is wrong, if anything."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--target", default="127.0.0.1:50051", help="host and port")
    parser.add_argument("--service", default="", help="a service's name; the server as a whole without")
    parser.add_argument("--ca", type=Path, help="PEM file of the CA, where the server has TLS")
    parser.add_argument("--name", help="the name in its certificate, where that is not the target's")
    parser.add_argument("--timeout-s", type=float, default=3.0)
    args = parser.parse_args()
    options = [("grpc.ssl_target_name_override", args.name)] if args.name else []
    if args.ca is None:
        channel = grpc.insecure_channel(args.target)
    else:
        channel = grpc.secure_channel(args.target, grpc.ssl_channel_credentials(args.ca.read_bytes()), options)
    with channel:
        try:
            request = health_pb2.HealthCheckRequest(service=args.service)
            answer = health_pb2_grpc.HealthStub(channel).Check(request, timeout=args.timeout_s)
        except grpc.RpcError as error:
            return f"{args.target}: {error.code().name}: {error.details()}"
    if answer.status == health_pb2.HealthCheckResponse.SERVING:
        return None
    return f"{args.target}: {health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status)}"


if __name__ == "__main__":
    sys.exit(main())
