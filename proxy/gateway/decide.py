"""What a read means for the current version: do the conditions hold, and which bytes. Pure; both lanes call it."""

from __future__ import annotations

from proxy.conditions import Conditions, GenerationConditions, Verdict
from proxy.errors import OtherGeneration, PreconditionFailed
from proxy.gateway.answers import CacheStatus, ReadAnswer, ReadObject
from proxy.generations import generation_of, metageneration_of, render_etag
from proxy.objects import ObjectRecord

_GRAVITY = (Verdict.HOLDS, Verdict.NOT_MODIFIED, Verdict.FAILED)


def decide(request: ReadObject, record: ObjectRecord) -> ReadAnswer:
    """Conditions first, then the range: RFC 9110 section 13.2.2. `cache` and `body` are for the caller to set.

    A `part_number` is not resolved here: only the origin knows its bytes. Raises PreconditionFailed and
    RangeNotSatisfiable, which a record that is out of date may have got wrong.
    """
    answer = ReadAnswer(record, CacheStatus.MISS)
    if not judge(request.conditions, record):
        answer.not_modified = True
    elif (
        request.range is not None
        and request.part_number is None
        and request.conditions.range_applies(record.etag, record.last_modified_s)
    ):
        answer.span = request.range.resolve(record.size_bytes)
    return answer


def judge(conditions: Conditions, record: ObjectRecord) -> bool:
    """False: not modified. Raises PreconditionFailed."""
    verdict = conditions.evaluate(record.etag, record.last_modified_s)
    if conditions.generations is not None and verdict is not Verdict.FAILED:
        verdict = max(verdict, _judge_generations(conditions.generations, record), key=_GRAVITY.index)
    if verdict is Verdict.FAILED:
        raise PreconditionFailed(conditions.failed_name())
    return verdict is Verdict.HOLDS


def _judge_generations(asked: GenerationConditions, record: ObjectRecord) -> Verdict:
    generation, metageneration = generation_of(record), metageneration_of(record)
    if asked.pin not in (None, generation):
        raise OtherGeneration(f"generation {asked.pin}")
    return asked.evaluate(generation, metageneration, record.etag, render_etag(generation, metageneration))
