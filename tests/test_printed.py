from tests.printed import like


def test_like_compares_words_and_orders_of_magnitude():
    wrong = "features  WRONG  2.3e3 x noise   max abs 1.72e-01   worst at mel 16, frame 646"
    right = "positions  PASS  0.239 x noise   max abs 1.00e-05   worst at position 384"
    for shown, here in [
        (wrong, wrong.replace("2.3e3", "2.0e3")),
        (wrong, wrong.replace("2.3e3", "980")),
        (right, "positions PASS 0.993 x noise max abs 2.01e-05 worst at position 7"),
        (right, right.replace("0.239", "1")),
    ]:
        assert like(shown, here), (shown, here)
    for shown, here in [
        (wrong, wrong.replace("2.3e3", "2.3e5")),
        (wrong, wrong.replace("2.3e3", "2.3")),
        (wrong, wrong.replace("2.3e3", "nan")),
        (wrong, wrong.replace("1.72e-01", "1.92e-01")),
        (wrong, wrong.replace("646", "647")),
        (wrong, wrong.replace("WRONG", "NOISY")),
        (right, right.replace("0.239", "2.1")),
        (right, right.replace("0.239", "nan")),
        (right, right.replace("PASS", "NOISY")),
    ]:
        assert not like(shown, here), (shown, here)
