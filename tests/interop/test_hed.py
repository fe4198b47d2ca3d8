"""HED tags of events: the official validator reads them, and finds nothing to say."""

import json
import shutil
from pathlib import Path

import pytest

from llm2bids.dataset.validate import validate

pytestmark = [pytest.mark.interop, pytest.mark.slow]


def test_every_level_has_tags_and_a_wrong_tag_is_an_error(written, tmp_path):
    root = Path(shutil.copytree(written, tmp_path / "copy"))
    sidecars = sorted(root.glob("task-*_events.json"))
    for file in sidecars:
        events = json.loads(file.read_text())
        assert set(events["trial_type"]["HED"]) == set(events["trial_type"]["Levels"])
    assert (validate(root).n_errors, validate(root).n_warnings) == (0, 0)
    tags = events["trial_type"]["HED"]
    events["trial_type"]["HED"] = {level: f"{tag}, Not-a-tag" for level, tag in tags.items()}
    file.write_text(json.dumps(events))
    result = validate(root)
    assert result.n_errors >= 1
    assert "HED_ERROR:TAG_INVALID" in {issue.code for issue in result.issues}
