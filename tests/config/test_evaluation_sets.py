"""Names of evaluation sets become names of metrics: each once, and none that is taken."""

import pytest

from data_pipeline.config import ConfigError


def test_sets_take_the_sources_of_the_run_by_default(make_run):
    config = make_run(**{"evaluation.sets": [{"name": "code"}, {"name": "wiki", "sources": [{"path": "data/wiki"}]}]})
    code, wiki = config.evaluation.sets
    assert (code.sources, code.split, code.num_sequences) == ([], "validation", 64)
    assert [source.path for source in wiki.sources] == ["data/wiki"]


@pytest.mark.parametrize(
    ("sets", "message"),
    [
        ([{"name": "code"}, {"name": "code"}], "two sets are named code"),
        ([{"name": "held_out"}], "`held_out` is the set that every run has"),
        ([{"name": "a/b"}], "name"),
        ([{"name": "code", "sources": [{"path": "data/one", "weight": 0}]}], "every source of set `code` has weight 0"),
        ([{"name": "code", "split": "test"}], "split"),
    ],
)
def test_a_set_that_cannot_be_told_apart_or_read_is_refused(make_run, sets, message):
    with pytest.raises(ConfigError, match=message):
        make_run(**{"evaluation.sets": sets})
