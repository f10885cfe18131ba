"""What the scripted model of the page's tests says."""

from __future__ import annotations

from typing import Any

MARKUP = '<img src=x onerror="window.hurt=1"><script>window.hurt=1</script> [a](javascript:window.hurt=1) **bold**'
SCRIPT: dict[str, Any] = {
    # Slow enough that a page can see a speed.
    "hello": {"say": "Hi there, **friend**.\n\n```python\nprint(1)\n```", "step_s": 0.01},
    "table": "| city | `code` |\n|---|:--:|\n| Paris | a\\|b |\n| **Lyon** |\n\nDone.",
    "markup": MARKUP,
    "think": "[THINK]First I wonder.[/THINK]Then I say.",
    "weather": '[TOOL_CALLS]weather[ARGS]{"city": "Paris"}',
    "21 degrees": "It is warm in Paris.",
    "count": {"say": "one two three ", "step_s": 0.02, "ends": False},
    "city": '{"name": "Paris", "people": 2}',
}
