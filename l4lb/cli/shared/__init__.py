"""What commands share: the options, the instance that is asked, and how they print what they found."""
