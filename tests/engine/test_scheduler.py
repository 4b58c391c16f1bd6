"""Who steps next."""

from hypothesis import given
from hypothesis import strategies as st

from engine.scheduler import ALONE, BESIDE_SPEECH, LEAST, MOST_BESIDE_SPEECH, URGENT_S, PrefillTime, View, plan


def view(key: int, missing: int = 0, lead_s: float | None = 0.5, since: float = 0.0) -> View:
    return View(key, missing, since, lead_s)


def test_every_stream_decodes_in_one_batch() -> None:
    assert plan([view(1), view(2, lead_s=None), view(3, lead_s=3.0)]).decode == (1, 2, 3)


def test_comfortable_streams_sit_out_while_another_runs_dry() -> None:
    assert plan([view(1, lead_s=0.02), view(2, lead_s=2.0), view(3, lead_s=0.4)]).decode == (1, 3)


def test_comfortable_streams_sit_out_while_a_newcomer_waits_for_his_prompt() -> None:
    assert plan([view(1, lead_s=0.4), view(2, lead_s=2.0), view(3, missing=700, lead_s=None)]).decode == (1,)
    assert plan([view(1, lead_s=0.4), view(2, lead_s=2.0), view(3, missing=700, lead_s=2.0)]).decode == (1, 2)


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


def test_a_speaker_about_to_run_dry_gets_its_next_segment_before_a_newcomers_long_history() -> None:
    streams = [view(1, missing=3000, lead_s=None, since=0.0), view(2, missing=40, lead_s=0.05, since=1.0)]
    assert plan(streams).prefill == ((2, 40), (1, BESIDE_SPEECH))


def test_a_speaker_that_must_be_rebuilt_and_runs_dry_is_not_held_up_by_itself() -> None:
    assert plan([view(1, missing=3000, lead_s=-1.0)]).prefill == ((1, ALONE),)


def test_a_step_is_relaxed_only_while_everybody_has_something_to_play() -> None:
    assert plan([]).relaxed
    assert plan([view(1, lead_s=0.9), view(2, lead_s=2.0, missing=30)]).relaxed
    assert not plan([view(1, lead_s=0.3), view(2, lead_s=2.0)]).relaxed
    assert not plan([view(1, lead_s=2.0), view(2, lead_s=None, missing=30)]).relaxed


leads = st.none() | st.floats(-100, 100)


@given(
    st.lists(st.tuples(st.sampled_from([0, 1, 40, 128, 129, 1024, 1025, 5000]), leads, st.floats(0, 9)), max_size=12)
)
def test_a_plan_keeps_its_budget_names_nobody_twice_and_is_empty_only_for_nobody(
    streams: list[tuple[int, float | None, float]],
) -> None:
    views = [view(key, missing, lead, since) for key, (missing, lead, since) in enumerate(streams)]
    planned = plan(views)
    keys = [key for key, _ in planned.prefill]
    assert bool(planned) == bool(views), "whoever can go on does, sooner or later; an idle step would spin"
    assert sum(positions for _, positions in planned.prefill) <= ALONE
    assert all(0 < positions <= views[key].missing for key, positions in planned.prefill)
    assert len(keys) == len(set(keys)) and not set(keys) & set(planned.decode)
    if any(v.lead_s is not None and v.lead_s < 0.1 and not v.missing for v in views):
        assert sum(positions for _, positions in planned.prefill) <= BESIDE_SPEECH


def test_prefill_takes_at_most_half_of_what_the_smallest_lead_leaves() -> None:
    speaking, newcomer = view(1, lead_s=0.3), view(2, missing=3000, lead_s=None)
    ((_, positions),) = plan([speaking, view(3, lead_s=2.0), newcomer], PrefillTime(0.0, 0.0002)).prefill
    assert positions == int((0.3 - URGENT_S) / 2 / 0.0002)
    assert plan([newcomer], PrefillTime(0.0, 0.0002)).prefill == ((2, ALONE),)


def test_a_quick_device_prefills_more_for_many_newcomers_beside_urgent_speech() -> None:
    streams = [view(1, lead_s=0.0), view(2, missing=200, lead_s=None), view(3, missing=700, lead_s=None)]
    assert plan(streams, PrefillTime(0.0, 0.00005)).prefill == ((2, 200), (3, 100)), "15 ms"
    assert plan(streams, PrefillTime(0.0, 0.00001)).prefill == ((2, 200), (3, MOST_BESIDE_SPEECH - 200))


def test_a_slow_device_prefills_little_beside_urgent_speech_but_goes_on() -> None:
    streams = [view(1, lead_s=0.0), view(2, missing=700, lead_s=None)]
    assert plan(streams, PrefillTime(0.0, 0.0003)).prefill == ((2, 50),)
    assert plan(streams, PrefillTime(0.0, 1.0)).prefill == ((2, LEAST),)


def test_what_a_prefill_takes_however_short_it_is_counts_once() -> None:
    streams = [view(1, lead_s=0.0), view(2, missing=700, lead_s=None)]
    ((_, positions),) = plan(streams, PrefillTime(0.005, 0.00004)).prefill
    assert positions in (249, 250), "15 ms"
    assert plan(streams, PrefillTime(0.020, 0.00005)).prefill == ((2, LEAST),)
    assert PrefillTime(0.005, 0.001).of(0) == 0.0


def test_prefill_beside_urgent_speech_is_given_less_where_listeners_were_short() -> None:
    streams = [view(1, lead_s=0.0), view(2, missing=700, lead_s=None)]
    assert plan(streams, PrefillTime(0.001, 0.00005), beside_s=0.006).prefill == ((2, 100),)
    assert plan(streams, PrefillTime(0.001, 0.00005), beside_s=0.0).prefill == ((2, LEAST),)
