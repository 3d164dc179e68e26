"""Values as people read them."""

from bitgolf.report import screen


def test_a_seed_is_a_name_and_zero_has_no_sign(capsys):
    screen.close({"seed": 1337, "steps": 1337, "gap": -0.0}, as_json=False)
    assert capsys.readouterr().out.split() == ["seed:", "1337", "steps:", "1,337", "gap:", "0"]
    screen.table("Runs", ("", "seed", "steps"), [("a", 1337, 1337), ("seed", 1, 4242)], as_json=False)
    out = capsys.readouterr().out.split()
    assert out[-6:] == ["a", "1337", "1,337", "seed", "1", "4242"]
