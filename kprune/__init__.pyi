# The public names, in road order. lazy_loader reads this file at run time: relative imports only.
from .errors import BudgetError as BudgetError
from .errors import FlatbufferError as FlatbufferError
from .errors import ToolNotFoundError as ToolNotFoundError
from .errors import UnsupportedLayerError as UnsupportedLayerError
from .errors import UnsupportedOpError as UnsupportedOpError
from .layers import ChannelMask as ChannelMask
from .masking import add_masks as add_masks
from .masking import close_channels as close_channels
from .cost import Budget as Budget
from .callbacks import PruneCallback as PruneCallback
from .callbacks import Schedule as Schedule
from .slimming import slim as slim
from .report import summary as summary
from .tflite import to_tflite as to_tflite
from .interpreters import run_tflite as run_tflite
from .c.array import to_c_array as to_c_array
from .c.files import write_files as write_files
