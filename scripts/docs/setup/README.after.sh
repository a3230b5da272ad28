# What `make run` printed after "try:" works as pasted: 200, 401, and 429 once the plan is spent.
for want in 200 401 429; do grep "^$want$" tried; done
