"""What notebooks show: a run live, the form that answers its tool calls. Given a client, never builds one."""

from nbruns.widgets.run_view import RunView
from nbruns.widgets.tool_outputs_form import ToolOutputsForm

__all__ = ["RunView", "ToolOutputsForm"]
