from collections.abc import Callable

import pytest

from scene_completion_ros.diagnosis.child import ProbeError, run_probe


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("import time; time.sleep(60)", "no answer within 3 s"),
        ("import os; os.abort()", "ended by SIGABRT"),
        ("import os; print('\\x1b[31mError: late\\x1b[0m', flush=True); os._exit(3)", "status 3: Error: late"),
        ("raise ValueError('two\\nlines')", "ValueError: two lines"),
        ("raise ValueError", "^ValueError"),
    ],
)
def test_what_happens_in_a_probe_is_told(extra_modules: Callable[..., None], source: str, message: str) -> None:
    extra_modules(broken=source)
    with pytest.raises(ProbeError, match=message):
        run_probe("module", "broken", limit_s=3.0 if "sleep" in source else 60.0)
