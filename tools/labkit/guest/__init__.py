"""The guest: a program (C, beside this file) that is the whole user space, and how its boot image is made."""
