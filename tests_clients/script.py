"""What the scripted model says, for all clients alike, in the form of tokenizer v13."""

from __future__ import annotations

from typing import Any

HELLO = "Say hello."
WEATHER = "What is the weather in Paris?"
BOTH = "Compare Paris and Rome."
RESULT, ANSWER = "21 degrees", "It is 21 degrees in Paris."
OTHER_RESULT, COMPARED = "18 degrees", "Paris has 21 degrees, Rome has 18."
THINK = "Think about two and two."
ENDLESS = "Count for ever."
AS_JSON = "Report on Paris as JSON."

SCRIPT: dict[str, Any] = {
    HELLO: "Hello there, and welcome.",
    WEATHER: '[TOOL_CALLS]get_weather[ARGS]{"city": "Paris"}',
    RESULT: ANSWER,
    BOTH: '[TOOL_CALLS]get_weather[ARGS]{"city": "Paris"}[TOOL_CALLS]get_weather[ARGS]{"city": "Rome"}',
    OTHER_RESULT: COMPARED,
    THINK: "[THINK]Two and two make four.[/THINK]Four.",
    ENDLESS: {"say": "one two ", "step_s": 0.05, "ends": False},
    AS_JSON: '{"city": "Paris", "degrees": 21}',
}

WEATHER_PARAMETERS = {
    "type": "object",
    "properties": {"city": {"type": "string"}},
    "required": ["city"],
    "additionalProperties": False,
}
WEATHER_TOOL = {
    "type": "function",
    "function": {"name": "get_weather", "description": "Weather of a city.", "parameters": WEATHER_PARAMETERS},
}
# A model of a few million parameters can fill these in: every answer is short.
FORCED_PARAMETERS = {
    "type": "object",
    "properties": {"unit": {"enum": ["celsius", "kelvin"]}, "days": {"type": "integer", "minimum": 1, "maximum": 9}},
    "required": ["unit", "days"],
    "additionalProperties": False,
}
FORCED_TOOL = {
    "type": "function",
    "function": {"name": "forecast", "description": "Weather to come.", "parameters": FORCED_PARAMETERS},
}
