"""What the notebooks of this course built: one room per question a reader asks.

`data`: where do real samples come from? `readers`: what is in a file, and is it what it should be?
`latents`: where does noise come from? `networks`: what are G and D made of? `layers`: which layers
does Keras lack? `stabilizers`: which layers keep the game stable? `losses`: what does each player
minimize? `penalties`: what else is asked of a player? `updates`: how does one step go, from two
gradients to two updates? `training`: how does one run go? `checkpoints`: how does a run survive a
crash? `metrics`: how good are the samples? `classifier`: through which eye do they look? `checks`:
is this input fit? `files`: how does a file appear whole, or not at all? `figures`: what does a
reader look at? `runtime`: how long, how fast and how quietly does a notebook run?
"""

__version__ = "0.1.0"
