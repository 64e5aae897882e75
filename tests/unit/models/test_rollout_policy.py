from __future__ import annotations

import msgspec
import pytest

from streamsvc.errors import ConfigurationError
from streamsvc.models.rollout_policy import Policy, fields_of, policy_of, read_policy


def test_defaults_are_flaggers() -> None:
    policy = read_policy(None, {})
    assert (policy.interval_s, policy.step_weight, policy.max_weight) == (60, 10, 50)
    assert policy.allowed_failures == 5


def test_a_file_and_options_that_win_over_it(tmp_path) -> None:
    path = tmp_path / "fast.toml"
    path.write_text('interval_s = 2\nstep_weight = 25\nmetrics = ["auc"]\nscore_psi = 0.5\n')
    options = {"step_weight": "50", "score_psi": "none", "metrics": "brier,calibration"}
    policy = read_policy(path, options)
    assert (policy.interval_s, policy.step_weight, policy.score_psi) == (2, 50, None)
    assert policy.metrics == ("brier", "calibration")


def test_it_survives_the_rollout_topic() -> None:
    policy = Policy(margin=0.01, metrics=("absolute_error",), error_limit=30.0)
    fields = fields_of(policy)
    assert msgspec.json.decode(msgspec.json.encode(fields)) == fields
    assert policy_of(fields) == policy


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"step_wait": "5"}, "no field 'step_wait'; did you mean 'step_weight'?"),
        ({"interval_s": "soon"}, "Expected `float`, got `array` - at `$.interval_s`"),
        ({"interval_s": "0"}, "interval_s must be more than 0"),
        ({"max_weight": "120"}, "100 at most"),
        ({"metrics": "absolute_error"}, "absolute_error need error_limit"),
        ({"metrics": "auc,absolute_error", "error_limit": "9"}, "choose one kind"),
        ({"metrics": "f1"}, "Invalid enum value 'f1'"),
    ],
)
def test_mistakes_are_named(options, says) -> None:
    with pytest.raises(ConfigurationError) as told:
        read_policy(None, options)
    assert says in str(told.value)


def test_a_file_that_is_none_is_named(tmp_path) -> None:
    with pytest.raises(ConfigurationError, match="no policy file"):
        read_policy(tmp_path / "gone.toml", {})
    (tmp_path / "bad.toml").write_text("interval_s = = 2")
    with pytest.raises(ConfigurationError, match=r"bad.toml is not valid TOML"):
        read_policy(tmp_path / "bad.toml", {})
