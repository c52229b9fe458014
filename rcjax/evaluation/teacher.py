"""A student against its teacher: which arms the teacher is asked in, and what it is served as there."""

from collections.abc import Mapping, Sequence

from rcjax.config import ArmSettings, Settings, ShapeSize, TeacherSettings
from rcjax.evaluation.arms import References
from rcjax.prompt import History, Layout, Reuse

TEACHER = "teacher"  # the name of the arm: full recompute under causal attention
UNDISTILLED = "undistilled"  # and what the names of its cached arms start with


def teacher_settings(
    settings: Settings, model: str, adapter: str | None, student_arms: Mapping[str, ArmSettings]
) -> Settings:
    """The settings that the teacher is evaluated with: `train.teacher` says its template and scoring.

    Its arms are full recompute and, for the front without distillation, its own KV from cached blocks: without
    correction, and under the policy of each `sequential` arm of the student's.
    """
    own = settings.train.teacher or TeacherSettings()
    full = ArmSettings(layout=Layout.SEQUENTIAL, scoring=own.scoring, reuse=Reuse.NONE)
    policies = [arm.selection for arm in student_arms.values() if _is_corrected(arm)]
    cached = {
        f"{UNDISTILLED} {policy}": ArmSettings(layout=Layout.SEQUENTIAL, scoring=own.scoring, selection=policy)
        for policy in dict.fromkeys(("none", *policies))
    }
    changes = {
        "model": model,
        "adapter": adapter,
        "template": own.template or settings.template,
        "arms": {TEACHER: full, **cached},
        "default_arm": TEACHER,
    }
    return settings.model_copy(update=changes)


def with_room(settings: Settings, prompts: Sequence[int]) -> Settings:
    """The settings with a shape that holds any of the prompts, from cached blocks, under any policy.

    Those of the settings were chosen for the student. `prompts` are lengths in tokens.
    """
    longest = max(prompts)
    num_blocks = settings.limits.max_candidates + 2  # the last page of each may be nearly empty
    num_pages = -(-longest // settings.cache.page_tokens) + num_blocks
    shape = ShapeSize(fresh_tokens=longest, num_pages=num_pages)
    shapes = settings.shapes.model_copy(update={"rank": (*settings.shapes.rank, shape)})
    return settings.model_copy(update={"shapes": shapes})


def against_teacher(teacher_arms: Mapping[str, ArmSettings], student_arms: Mapping[str, ArmSettings]) -> References:
    """Every arm is compared with the teacher's full recompute; ValueError where a student's arm has a name of its."""
    if taken := [name for name in student_arms if name in teacher_arms]:
        raise ValueError(f"arm {taken[0]!r} has the name of one of the teacher's; call it otherwise")
    return {name: None if name == TEACHER else TEACHER for name in (*teacher_arms, *student_arms)}


def _is_corrected(arm: ArmSettings) -> bool:
    return (arm.layout, arm.reuse, arm.history) == (Layout.SEQUENTIAL, Reuse.BLOCKS, History.EXACT)
