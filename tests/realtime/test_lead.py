from realtime.lead import LeadGauge


def test_the_least_lead_is_kept_and_running_short_counted_once_a_place() -> None:
    gauge = LeadGauge()
    assert gauge.min_ms is None and gauge.underruns == 0
    assert [
        gauge.note(lead, sent) for lead, sent in ((300.4, 0.0), (-20.0, 100.0), (-60.0, 100.0), (-10.0, 200.0))
    ] == [
        False,
        True,
        False,
        False,
    ]
    assert gauge.min_ms == -60 and gauge.underruns == 2
