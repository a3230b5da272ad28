. /opt/docs/setup/site.sh
serve
