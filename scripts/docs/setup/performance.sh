# A fresh clone; nothing of it is built, and nothing of ours is installed.
rm -f /usr/local/bin/tidegate /usr/local/bin/tidectl
git clone -q /opt/docs/tidegate.git && cd tidegate
