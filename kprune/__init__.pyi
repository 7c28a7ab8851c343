from kprune.errors import BudgetError as BudgetError
