"""Who steps next."""

from engine.scheduler import ALONE, BESIDE_SPEECH, View, plan


def view(key: int, missing: int = 0, lead_s: float | None = 0.5, since: float = 0.0, credit: bool = True) -> View:
    return View(key, missing, credit, since, lead_s)


def test_every_stream_with_credit_decodes_in_one_batch() -> None:
    assert plan([view(1), view(2, lead_s=None), view(3, lead_s=3.0)]).decode == (1, 2, 3)


def test_a_stream_without_credit_costs_nothing() -> None:
    assert not plan([view(1, credit=False), view(2, missing=10, credit=False)])


def test_comfortable_streams_sit_out_while_another_runs_dry() -> None:
    assert plan([view(1, lead_s=0.02), view(2, lead_s=2.0), view(3, lead_s=0.4)]).decode == (1, 3)


def test_a_newcomer_is_prefilled_whole_when_nobody_is_urgent() -> None:
    assert plan([view(1, lead_s=1.0), view(2, missing=700, lead_s=None)]).prefill == ((2, 700),)


def test_prefill_shrinks_beside_urgent_speech() -> None:
    assert plan([view(1, lead_s=0.0), view(2, missing=700, lead_s=None)]).prefill == ((2, BESIDE_SPEECH),)


def test_who_has_nothing_to_play_comes_first_then_who_waited_longest() -> None:
    waiting = [
        view(1, missing=ALONE, lead_s=0.5, since=0.0),
        view(2, missing=600, lead_s=None, since=2.0),
        view(3, missing=600, lead_s=None, since=1.0),
    ]
    assert plan(waiting).prefill == ((3, 600), (2, ALONE - 600))


def test_no_plan_exceeds_its_budget_or_names_a_stream_twice() -> None:
    views = [view(k, missing=(k % 3) * 300, lead_s=None if k % 2 else k / 10) for k in range(20)]
    planned = plan(views)
    keys = [key for key, _ in planned.prefill]
    assert sum(positions for _, positions in planned.prefill) <= ALONE
    assert len(keys) == len(set(keys)) and not set(keys) & set(planned.decode)
