"""A client that has one stream of each kind under way, says so, and reads no further: it is killed then.

`python vanishing_client.py TARGET CA TOKEN`
"""

import itertools
import sys
import time
from pathlib import Path

from rcjax.serving.security import ChannelSecurity, new_channel
from rcjax.serving.v1 import rcjax_pb2, rcjax_pb2_grpc


def main(target: str, ca: str, token: str) -> None:
    channel = new_channel(target, ChannelSecurity(ca=Path(ca), token=token))
    recommender, catalog = rcjax_pb2_grpc.RecommenderStub(channel), rcjax_pb2_grpc.CatalogStub(channel)
    candidates = [rcjax_pb2.Candidate(item_id=f"i{number}") for number in range(4)]
    asked = rcjax_pb2.RecommendRequest(user_id="ann-0", candidates=candidates)
    entries = (rcjax_pb2.RecommendStreamRequest(request_id=str(n), request=asked) for n in itertools.count())
    chunks = (
        rcjax_pb2.PutItemsStreamRequest(items=[rcjax_pb2.Item(item_id=f"gone-{n}", title="pan")])
        for n in itertools.count()
    )
    streams = [
        recommender.RecommendStream(entries),
        recommender.Generate(rcjax_pb2.GenerateRequest(text="red mug", max_new_tokens=40)),
        catalog.PutItemsStream(chunks),
    ]
    for stream in streams:
        next(stream)
    print("streaming", flush=True)
    time.sleep(600)


if __name__ == "__main__":
    main(*sys.argv[1:])
