"""HTTP's words, whatever the dialect: headers, targets, XML, and what of them may be shown."""
