"""The message channel to an engine process, and the supervisor that keeps the process alive. Torch-free."""

from ostro.link.supervisor import EngineProcess, EngineState, RestartPolicy

__all__ = ["EngineProcess", "EngineState", "RestartPolicy"]
