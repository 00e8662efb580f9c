-- Answer: the time.
return string.format('%.6f', now)
