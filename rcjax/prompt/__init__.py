"""From a request's text to blocks of tokens; no JAX."""

from rcjax.prompt.blocks import Block as Block
from rcjax.prompt.blocks import BlockKind as BlockKind
from rcjax.prompt.blocks import Layout as Layout
from rcjax.prompt.blocks import Prompt as Prompt
from rcjax.prompt.blocks import Scoring as Scoring
from rcjax.prompt.builder import PromptBuilder as PromptBuilder
from rcjax.prompt.encoder import Encoder as Encoder
from rcjax.prompt.fitting import FittedHistory as FittedHistory
from rcjax.prompt.fitting import FittingTexts as FittingTexts
from rcjax.prompt.labels import single_token_labels as single_token_labels
from rcjax.prompt.owner import NOBODY as NOBODY
from rcjax.prompt.owner import Owner as Owner
from rcjax.prompt.reuse import History as History
from rcjax.prompt.reuse import Reuse as Reuse
