"""The intake: from a request that comes to a slice that has it. Planner threads plan, and hand over what is due."""

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from queue import SimpleQueue
from typing import Any

import numpy as np

from rcjax.engine.threads import join_all
from rcjax.errors import RcjaxError, UnavailableError
from rcjax.request import EngineInfo, RecommendRequest
from rcjax.serving.admission import Admission, Stage, Ticket, Work
from rcjax.serving.admission_limits import AdmissionLimits
from rcjax.serving.attempts import Attempts, Body
from rcjax.serving.calls import Call, Calls
from rcjax.serving.dispatch import Dispatcher
from rcjax.serving.expected_builds import ExpectedBuilds
from rcjax.serving.generations import Generation
from rcjax.serving.parts import GenerationPlanned, Planned, Planner
from rcjax.serving.residency import Residency
from rcjax.serving.scheduler import MissCosts


class Intake:
    """Takes requests from any thread: each is refused at once, or its call is answered by a slice, or with an error.

    What `admission` lets in waits in its queues, for a planner thread and for a slice. `log` gets the items of each
    request that a slice is given.
    """

    def __init__(
        self,
        planner: Planner,
        attempts: Attempts,
        calls: Calls[Body],
        dispatcher: Dispatcher,
        residency: Residency,
        costs: MissCosts,
        info: EngineInfo,
        limits: AdmissionLimits,
        *,
        num_threads: int,
        log: Callable[[Sequence[str], RecommendRequest], None],
        clock: Callable[[], float],
    ):
        self.admission = Admission(
            limits, clock, num_open=lambda: dispatcher.num_open, num_planners=num_threads, left=self._on_left
        )
        self._planner = planner
        self._attempts = attempts
        self._calls = calls
        self._residency = residency
        self._costs = costs
        self._builds = ExpectedBuilds()
        self._info = info
        self._log = log
        self._clock = clock
        # One entry for each call that is to be planned, and one whenever a slice may have room: a thread that takes one
        # looks at both queues of the admission. None ends a thread.
        self._wakes: SimpleQueue[bool | None] = SimpleQueue()
        self._threads = [
            threading.Thread(target=self._run, name=f"rcjax-planner-{number}", daemon=True)
            for number in range(num_threads)
        ]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Ends the threads, waiting a moment for that; what waits is never planned."""
        for _ in self._threads:
            self._wakes.put(None)
        join_all(self._threads)

    def submit(self, body: Body, caller: str, arrival_s: float | None, deadline_s: float | None) -> Call[Body]:
        """The call of a request that is let in, to be answered by `call.future`; raises what it is refused with."""
        if deadline_s is None:
            deadline_s = self._clock() + self.admission.limits.default_deadline_s
        arm = self._arm(body)
        call = self._calls.open(body, arrival_s, deadline_s)
        try:
            self.admission.check(caller, arm, deadline_s)
        except RcjaxError:
            self._calls.withdraw(call)
            raise
        self.admission.enter(call, caller, arm)
        self._wakes.put(True)
        return call

    def submit_planned(self, bodies: Sequence[Body]) -> list[Future[Any]]:
        """Plans all in the calling thread, then hands all over: past the admission, for callers in this process."""
        calls = [self._calls.open(body, None, None) for body in bodies]
        plans = [self._plan(call) for call in calls]
        for call, plan in zip(calls, plans, strict=True):
            if plan is not None:
                self._hand_over(call, plan)
        return [call.future for call in calls]

    def _run(self) -> None:
        while self._wakes.get() is not None:
            self._hand_over_due()
            call = self.admission.next_to_plan()
            if call is not None and self._enter_plan(call):
                self._hand_over_due()

    def _enter_plan(self, call: Call[Body]) -> bool:
        """Plans a call and lets it wait for a slice; False where it is over."""
        start_s = self._clock()
        plan = self._plan(call)
        if plan is None:
            return False
        try:
            work = self._work(call, plan)
            is_in = self.admission.planned(call, plan, self._arm(call.body), work, self._clock() - start_s)
        except Exception as error:
            self._attempts.close(call, plan, error)
            return False
        if not is_in:
            self._builds.release(call.future)
            self._attempts.close(call, plan, UnavailableError("the call was cancelled"))
        return is_in

    def _plan(self, call: Call[Body]) -> Planned | GenerationPlanned | None:
        """The plan of a call, or None where it is over: nobody waits for it, or it cannot be planned."""
        if not self._calls.is_wanted(call):
            return None
        try:
            if isinstance(call.body, Generation):
                return self._planner.plan_generation(call.body.request)
            return self._planner.plan(call.body)
        except Exception as error:
            self._calls.close(call, error)
            return None

    def _work(self, call: Call[Body], plan: Any) -> Work:
        """What a plan takes of a slice, with the blocks that no slice holds and no other call is estimated with."""
        seconds = plan.share_s
        keys = [one.key for one in plan.wanted]
        missing = np.flatnonzero(self._residency.holders(keys).sum(axis=1) == 0) if keys else ()
        own = self._builds.claim(call.future, [keys[index] for index in missing])
        if own:
            seconds += self._costs.build_s(sum(len(one.block) for one in plan.wanted if one.key in own))
        return Work(seconds, plan.full_pass_s)

    def _hand_over_due(self) -> None:
        """Gives slices the requests whose turn it is, as many as they are to have ahead."""
        while (ticket := self.admission.next_to_run()) is not None:
            if self._calls.is_wanted(ticket.call):
                self._hand_over(ticket.call, ticket.plan)
            else:
                self._attempts.close(ticket.call, ticket.plan, UnavailableError("the call was cancelled"))

    def _hand_over(self, call: Call[Body], plan: Any) -> None:
        if not isinstance(call.body, Generation):
            self._log(plan.item_ids, call.body)
        self._attempts.hand_over(call, plan)

    def _on_left(self, ticket: Ticket) -> None:
        """A call is over: what it waited in is done with it, and where a slice had it there is room."""
        self._builds.release(ticket.call.future)
        if ticket.stage is Stage.TO_PLAN:
            self._calls.close(ticket.call, UnavailableError("the call was cancelled"))
        elif ticket.stage is Stage.TO_RUN:
            self._attempts.close(ticket.call, ticket.plan, UnavailableError("the call was cancelled"))
        elif self.admission.has_waiting_plans:
            self._wakes.put(True)

    def _arm(self, body: Body) -> str:
        """The arm that a request asks for; a text to continue goes by the default one."""
        request = body.request.prompt if isinstance(body, Generation) else body
        return (request.arm if isinstance(request, RecommendRequest) else "") or self._info.default_arm
