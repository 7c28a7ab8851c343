from .errors import BudgetError as BudgetError
