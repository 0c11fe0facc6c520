"""How connections end: every scenario of the closing rules, over real sockets, on every poller."""

import pytest

pytest.register_assert_rewrite("tests.closing.support")
