"""What text is judged by: Mistral's categories, and OpenAI's beside them, so that clients of both find theirs."""

from __future__ import annotations

# As Mistral's moderation API names them.
SEXUAL = "sexual"
HATE = "hate_and_discrimination"
VIOLENCE = "violence_and_threats"
DANGEROUS = "dangerous_and_criminal_content"
SELF_HARM = "selfharm"
HEALTH = "health"
FINANCIAL = "financial"
LAW = "law"
PII = "pii"
MISTRAL = (SEXUAL, HATE, VIOLENCE, DANGEROUS, SELF_HARM, HEALTH, FINANCIAL, LAW, PII)

# As OpenAI's does; "sexual" is in both.
OPENAI = (
    "harassment",
    "harassment/threatening",
    "hate",
    "hate/threatening",
    "illicit",
    "illicit/violent",
    "self-harm",
    "self-harm/intent",
    "self-harm/instructions",
    "sexual",
    "sexual/minors",
    "violence",
    "violence/graphic",
)

ALL = (*MISTRAL, *(name for name in OPENAI if name not in MISTRAL))

# A score from here on flags its category.
THRESHOLD = 0.5
