"""The one exception that stands for a mistake of the user's rather than of this package."""


class UserError(Exception):
  """A mistake that its maker can mend: the message says what is wrong and what to do.

  The command line prints the message alone and exits with 2; anything else that is raised is a
  defect of ours and keeps its traceback.
  """
