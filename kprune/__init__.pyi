# The public names, in the order the data flows. lazy_loader reads relative imports only.
from .c.array import to_c_array as to_c_array
from .c.files import write_files as write_files
from .c.network import to_c as to_c
from .errors import BudgetError as BudgetError
from .errors import FlatbufferError as FlatbufferError
