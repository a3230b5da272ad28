# A fresh clone and nothing else.
rm -f /usr/local/bin/tidegate /usr/local/bin/tidectl
git clone -q /opt/docs/tidegate.git
