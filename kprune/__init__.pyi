# The stub that lazy_loader reads takes relative imports only.
from .errors import BudgetError as BudgetError
from .errors import FlatbufferError as FlatbufferError
