"""Contract tests and toy data, for this package and for plugin authors."""

from __future__ import annotations

import sys

if "pytest" in sys.modules:  # so that a failed `assert` in these modules shows its values, as in tests
    import pytest

    pytest.register_assert_rewrite(
        *(
            f"{__name__}.{kind}"
            for kind in (
                "backbones",
                "baselines",
                "contract",
                "encoders",
                "engines",
                "exporters",
                "fusers",
                "llms",
                "localizers",
                "loggers",
                "perspectives",
                "readers",
            )
        )
    )
