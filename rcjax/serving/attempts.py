"""Attempts: a planned request is with one slice, and with another one after that dies, until it is answered once."""

from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple, TypeAlias
from weakref import ref

from rcjax.engine.request_id import working_on
from rcjax.errors import UnavailableError
from rcjax.request import RecommendRequest, RecommendResult
from rcjax.serving.calls import Call, Calls
from rcjax.serving.dispatch import Dispatch, Dispatcher
from rcjax.serving.generations import Generation
from rcjax.serving.parts import GenerationPlanned, Planned, Worker
from rcjax.serving.scheduler import MissCosts, wants_of
from rcjax.serving.versions import VersionKeeper

STOPPED = "the server stopped before this call was done"
LOST = "the server has lost its engine and is going down"

CUT_OFF = "the slice of this generation died in the middle of it; ask again"

Body: TypeAlias = RecommendRequest | Generation
Outcome: TypeAlias = RecommendResult | list[int] | BaseException


class PlannedCall(NamedTuple):
    """A call and its plan, whose version is to be ended once."""

    call: Call[Body]
    plan: Planned | GenerationPlanned


class Attempts:
    """Hands planned requests to workers, as `dispatcher` says, and closes their calls; any thread may use it."""

    def __init__(
        self,
        workers: Sequence[Worker],
        dispatcher: Dispatcher,
        calls: Calls[Body],
        versions: VersionKeeper,
        costs: MissCosts,
    ):
        self._workers = workers
        self._dispatcher = dispatcher
        self._calls = calls
        self._versions = versions
        self._costs = costs

    def hand_over(self, call: Call[Body], plan: Planned | GenerationPlanned) -> None:
        """Gives a request to the slice that is chosen for it."""
        planned = PlannedCall(call, plan)
        try:
            dispatch = self._dispatcher.dispatch(wants_of(plan.wanted, self._costs), plan.cost_s, planned)
        except Exception as error:
            self._close(planned, error)
            return
        self._send(dispatch)

    def expected_slice(self, plan: Planned) -> int:
        """The slice that a request would be given now; nothing is."""
        return self._dispatcher.preview(wants_of(plan.wanted, self._costs), plan.cost_s)

    def close(self, call: Call[Body], plan: Planned | GenerationPlanned, outcome: Outcome) -> None:
        """Ends a call that no slice was given, and what its plan reads."""
        self._close(PlannedCall(call, plan), outcome)

    def lose(self, index: int) -> None:
        """Does without the slice `index` from now on; what it had is tried on others."""
        self.move(self._dispatcher.lose(index))

    def move(self, dispatches: Sequence[Dispatch]) -> None:
        """Tries requests on other slices than those that had them."""
        for dispatch in dispatches:
            if not self._calls.is_wanted(dispatch.body.call):
                self._close(dispatch.body, UnavailableError(STOPPED))
                continue
            if _cannot_begin_again(dispatch.body.call.body):
                self._close(dispatch.body, UnavailableError(CUT_OFF))
                continue
            try:
                self._dispatcher.retry(dispatch)
            except UnavailableError as error:
                self._close(dispatch.body, error if self._dispatcher.alive() else UnavailableError(LOST))
                continue
            self._send(dispatch)

    def _send(self, dispatch: Dispatch) -> None:
        index = dispatch.index
        call, plan = dispatch.body
        try:
            with working_on(call.request_id):
                future = self._submit(index, call, plan)
        except Exception as error:
            self._on_outcome(dispatch, index, error)
            return
        future.add_done_callback(partial(self._on_answer, dispatch, index))
        call.future.add_done_callback(partial(_cancel, ref(future)))

    def _submit(self, index: int, call: Call[Body], plan: Any) -> Future[Any]:
        worker = self._workers[index]
        if isinstance(call.body, Generation):
            return call.body.submit(worker, index, plan, call.deadline_s)
        return worker.submit(plan, arrival_s=call.arrival_s, deadline_s=call.deadline_s)

    def _on_answer(self, dispatch: Dispatch, index: int, future: Future[Any]) -> None:
        if future.cancelled():
            self._on_outcome(dispatch, index, UnavailableError(STOPPED))
        else:
            error = future.exception()
            self._on_outcome(dispatch, index, future.result() if error is None else error)

    def _on_outcome(self, dispatch: Dispatch, index: int, outcome: Outcome) -> None:
        """Takes what the slice `index` made of a request, unless another slice has it by now."""
        if isinstance(outcome, UnavailableError) and self._calls.is_wanted(dispatch.body.call):
            self.lose(index)  # which tries the request elsewhere
            return
        if self._dispatcher.end(dispatch, index):
            if isinstance(outcome, RecommendResult):
                outcome = replace(outcome, slice_index=index)
            self._close(dispatch.body, outcome)

    def _close(self, planned: PlannedCall, outcome: Outcome) -> None:
        self._versions.end_read(planned.plan.version)
        self._calls.close(planned.call, outcome)


def _cannot_begin_again(body: Body) -> bool:
    return isinstance(body, Generation) and body.has_tokens


def _cancel(slice_future: "ref[Future[Any]]", _: object) -> None:
    """Cancels the slice's part of a call that is over, if it is not over too.

    The reference is weak, as the two futures would else keep each other until the garbage collector comes.
    """
    future = slice_future()
    if future is not None:
        future.cancel()
